(data (i32.const 64) "in/alice") (data (i32.const 80) "in/bob") (data (i32.const 96) "out/result")
(data (i32.const 112) "alice") (data (i32.const 128) "bob") (data (i32.const 144) "equal")
(func (export "_start") (local $a i64) (local $b i64) (local $out i32)
  (local.set $a (call $number (i32.const 64) (i32.const 8)))
  (local.set $b (call $number (i32.const 80) (i32.const 6)))
  (local.set $out (call $output (i32.const 96) (i32.const 10)))
  (if (i64.gt_u (local.get $a) (local.get $b)) (then
    (call $write (local.get $out) (i32.const 112) (i32.const 5)) (return)))
  (if (i64.lt_u (local.get $a) (local.get $b)) (then
    (call $write (local.get $out) (i32.const 128) (i32.const 3)) (return)))
  (call $write (local.get $out) (i32.const 144) (i32.const 5)))
