(data (i32.const 64) "in/a") (data (i32.const 72) "in/b") (data (i32.const 80) "in/c") (data (i32.const 88) "in/d")
(data (i32.const 96) "out/result")
(func (export "_start") (local $sum i64) (local $name i32)
  (local.set $name (i32.const 64))
  (loop $more
    (local.set $sum (i64.add (local.get $sum) (call $number (local.get $name) (i32.const 4))))
    (local.set $name (i32.add (local.get $name) (i32.const 8)))
    (br_if $more (i32.lt_u (local.get $name) (i32.const 96))))
  (call $decimal (call $output (i32.const 96) (i32.const 10)) (local.get $sum)))
