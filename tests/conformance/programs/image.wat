;; A grey PGM picture to half its width and height: each pixel is the mean of four.
(data (i32.const 64) "in/image") (data (i32.const 96) "out/result")
(data (i32.const 112) "P5\0a") (data (i32.const 120) " ") (data (i32.const 128) "\0a255\0a")
(global $at (mut i32) (i32.const 1027))

;; The decimal number at $at; passes over it and the byte behind it.
(func $next (result i32) (local $value i32) (local $digit i32)
  (loop $more
    (local.set $digit (i32.sub (i32.load8_u (global.get $at)) (i32.const 48)))
    (global.set $at (i32.add (global.get $at) (i32.const 1)))
    (if (i32.lt_u (local.get $digit) (i32.const 10)) (then
      (local.set $value (i32.add (i32.mul (local.get $value) (i32.const 10)) (local.get $digit)))
      (br $more))))
  (local.get $value))

(func $two (param $from i32) (result i32)
  (i32.add (i32.load8_u (local.get $from)) (i32.load8_u offset=1 (local.get $from))))

(func (export "_start")
  (local $width i32) (local $height i32) (local $out i32) (local $x i32) (local $y i32) (local $from i32) (local $to i32)
  (drop (call $slurp (call $input (i32.const 64) (i32.const 8)) (i32.const 1024)))
  (local.set $width (call $next))
  (local.set $height (call $next))
  (drop (call $next))
  ;; In place: a pixel is written behind all that are still to be read.
  (local.set $to (global.get $at))
  (loop $rows
    (local.set $x (i32.const 0))
    (loop $row
      (local.set $from (i32.add (global.get $at) (i32.add (local.get $x) (i32.mul (local.get $y) (local.get $width)))))
      (i32.store8 (local.get $to) (i32.shr_u
        (i32.add (call $two (local.get $from)) (call $two (i32.add (local.get $from) (local.get $width))))
        (i32.const 2)))
      (local.set $to (i32.add (local.get $to) (i32.const 1)))
      (br_if $row (i32.lt_u (local.tee $x (i32.add (local.get $x) (i32.const 2))) (local.get $width))))
    (br_if $rows (i32.lt_u (local.tee $y (i32.add (local.get $y) (i32.const 2))) (local.get $height))))
  (local.set $out (call $output (i32.const 96) (i32.const 10)))
  (call $write (local.get $out) (i32.const 112) (i32.const 3))
  (call $decimal (local.get $out) (i64.extend_i32_u (i32.shr_u (local.get $width) (i32.const 1))))
  (call $write (local.get $out) (i32.const 120) (i32.const 1))
  (call $decimal (local.get $out) (i64.extend_i32_u (i32.shr_u (local.get $height) (i32.const 1))))
  (call $write (local.get $out) (i32.const 128) (i32.const 5))
  (call $write (local.get $out) (global.get $at) (i32.sub (local.get $to) (global.get $at))))
