;; How many words: runs of bytes above the blank.
(data (i32.const 64) "in/text") (data (i32.const 96) "out/result")
(func (export "_start") (local $at i32) (local $end i32) (local $words i64) (local $inside i32) (local $is i32)
  (local.set $end (i32.add (i32.const 1024)
    (call $slurp (call $input (i32.const 64) (i32.const 7)) (i32.const 1024))))
  (local.set $at (i32.const 1024))
  (block $done (loop $more
    (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
    (local.set $is (i32.gt_u (i32.load8_u (local.get $at)) (i32.const 32)))
    (if (i32.gt_u (local.get $is) (local.get $inside)) (then
      (local.set $words (i64.add (local.get $words) (i64.const 1)))))
    (local.set $inside (local.get $is))
    (local.set $at (i32.add (local.get $at) (i32.const 1)))
    (br $more)))
  (call $decimal (call $output (i32.const 96) (i32.const 10)) (local.get $words)))
