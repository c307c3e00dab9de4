(data (i32.const 64) "out/result")
(func (export "_start") (local $out i32)
  (local.set $out (call $output (i32.const 64) (i32.const 10)))
  (loop $more (call $write (local.get $out) (i32.const 1024) (i32.const 65536)) (br $more)))
