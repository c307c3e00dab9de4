(data (i32.const 64) "in/data") (data (i32.const 96) "out/result")
(func (export "_start") (local $in i32) (local $out i32) (local $got i32)
  (local.set $in (call $input (i32.const 64) (i32.const 7)))
  (local.set $out (call $output (i32.const 96) (i32.const 10)))
  (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
  (loop $more
    (local.set $got (call $read (local.get $in) (i32.const 65536) (i32.const 1048576)))
    (call $write (local.get $out) (i32.const 65536) (local.get $got))
    (br_if $more (local.get $got))))
