;; Whether an optional input is there.
(data (i32.const 64) "in/data") (data (i32.const 96) "out/result") (data (i32.const 128) "neither")
(func (export "_start") (local $out i32)
  (local.set $out (call $output (i32.const 96) (i32.const 10)))
  (if (i32.eq (i32.const 44) (call $path_open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 7)
      (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 0)))
    (then (call $write (local.get $out) (i32.const 128) (i32.const 7)))
    (else (call $write (local.get $out)
      (i32.const 1024) (call $slurp (i32.load (i32.const 0)) (i32.const 1024))))))
