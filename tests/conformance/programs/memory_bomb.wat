(func (export "_start")
  (loop $more (br_if $more (i32.ne (memory.grow (i32.const 64)) (i32.const -1))))
  (loop $rest (br_if $rest (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
  unreachable)
