;; How many bytes an input has, read piece by piece into one page.
(data (i32.const 64) "in/data") (data (i32.const 96) "out/result")
(func (export "_start") (local $in i32) (local $got i32) (local $all i64)
  (local.set $in (call $input (i32.const 64) (i32.const 7)))
  (loop $more
    (local.set $got (call $read (local.get $in) (i32.const 65536) (i32.const 65536)))
    (local.set $all (i64.add (local.get $all) (i64.extend_i32_u (local.get $got))))
    (br_if $more (local.get $got)))
  (call $decimal (call $output (i32.const 96) (i32.const 10)) (local.get $all)))
