;; Two square matrices of little-endian f64, row by row, without a header; so is their product.
(data (i32.const 64) "in/left") (data (i32.const 80) "in/right") (data (i32.const 96) "out/result")
(func (export "_start")
  (local $bytes i32) (local $n i32) (local $left i32) (local $right i32) (local $out i32)
  (local $i i32) (local $j i32) (local $k i32) (local $sum f64)
  (local.set $left (i32.const 1024))
  (local.set $bytes (call $slurp (call $input (i32.const 64) (i32.const 7)) (local.get $left)))
  (local.set $right (i32.add (local.get $left) (local.get $bytes)))
  (if (i32.ne (local.get $bytes)
      (call $slurp (call $input (i32.const 80) (i32.const 8)) (local.get $right)))
    (then (call $exit (i32.const 1))))
  (local.set $out (i32.add (local.get $right) (local.get $bytes)))
  (if (i32.eq (memory.grow (i32.shr_u (i32.add (local.get $bytes) (i32.const 65535)) (i32.const 16)))
      (i32.const -1)) (then unreachable))
  (local.set $n (i32.trunc_f64_u (f64.sqrt (f64.convert_i32_u (i32.shr_u (local.get $bytes) (i32.const 3))))))
  (loop $rows
    (local.set $j (i32.const 0))
    (loop $columns
      (local.set $k (i32.const 0))
      (local.set $sum (f64.const 0))
      (loop $terms
        (local.set $sum (f64.add (local.get $sum) (f64.mul
          (f64.load (i32.add (local.get $left) (i32.shl
            (i32.add (i32.mul (local.get $i) (local.get $n)) (local.get $k)) (i32.const 3))))
          (f64.load (i32.add (local.get $right) (i32.shl
            (i32.add (i32.mul (local.get $k) (local.get $n)) (local.get $j)) (i32.const 3)))))))
        (local.set $k (i32.add (local.get $k) (i32.const 1)))
        (br_if $terms (i32.lt_u (local.get $k) (local.get $n))))
      (f64.store (i32.add (local.get $out) (i32.shl
        (i32.add (i32.mul (local.get $i) (local.get $n)) (local.get $j)) (i32.const 3))) (local.get $sum))
      (local.set $j (i32.add (local.get $j) (i32.const 1)))
      (br_if $columns (i32.lt_u (local.get $j) (local.get $n))))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br_if $rows (i32.lt_u (local.get $i) (local.get $n))))
  (call $write (call $output (i32.const 96) (i32.const 10)) (local.get $out) (local.get $bytes)))
