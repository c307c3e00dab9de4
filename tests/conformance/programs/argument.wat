;; The arguments as the module finds them.
(data (i32.const 64) "args.json") (data (i32.const 96) "out/result")
(func (export "_start") (local $size i32)
  (local.set $size (call $slurp (call $input (i32.const 64) (i32.const 9)) (i32.const 1024)))
  (call $write (call $output (i32.const 96) (i32.const 10)) (i32.const 1024) (local.get $size)))
