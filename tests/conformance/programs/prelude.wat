;; What the programs share: files by WASI preview 1, decimal numbers, and a memory that grows.
(import "wasi_snapshot_preview1" "path_open"
  (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
(memory (export "memory") 2)
;; 0: a result; 16: one buffer (pointer, length); 64 to 1023: names and texts; 1024 up: free.

(func $check (param $errno i32)
  (if (local.get $errno) (then (call $exit (i32.add (i32.const 100) (local.get $errno))))))

;; Open a file below the folder 3, which is "/"; answers its descriptor.
(func $input (param $name i32) (param $length i32) (result i32)
  (call $check (call $path_open (i32.const 3) (i32.const 0) (local.get $name) (local.get $length)
    (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 0)))
  (i32.load (i32.const 0)))
(func $output (param $name i32) (param $length i32) (result i32)
  (call $check (call $path_open (i32.const 3) (i32.const 0) (local.get $name) (local.get $length)
    (i32.const 9) (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 0)))
  (i32.load (i32.const 0)))

;; At most `most` bytes into `at`; answers how many.
(func $read (param $fd i32) (param $at i32) (param $most i32) (result i32)
  (i32.store (i32.const 16) (local.get $at))
  (i32.store (i32.const 20) (local.get $most))
  (call $check (call $fd_read (local.get $fd) (i32.const 16) (i32.const 1) (i32.const 0)))
  (i32.load (i32.const 0)))

;; A whole file to `at`, with as much memory as it takes; answers its size.
(func $slurp (param $fd i32) (param $at i32) (result i32)
  (local $end i32) (local $got i32)
  (local.set $end (local.get $at))
  (loop $more
    (if (i32.lt_u (i32.shl (memory.size) (i32.const 16)) (i32.add (local.get $end) (i32.const 65536)))
      (then (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))))
    (local.set $got (call $read (local.get $fd) (local.get $end) (i32.const 65536)))
    (local.set $end (i32.add (local.get $end) (local.get $got)))
    (br_if $more (local.get $got)))
  (i32.sub (local.get $end) (local.get $at)))

(func $write (param $fd i32) (param $at i32) (param $length i32)
  (local $written i32)
  (loop $more
    (if (local.get $length) (then
      (i32.store (i32.const 16) (local.get $at))
      (i32.store (i32.const 20) (local.get $length))
      (call $check (call $fd_write (local.get $fd) (i32.const 16) (i32.const 1) (i32.const 0)))
      (local.set $written (i32.load (i32.const 0)))
      (local.set $at (i32.add (local.get $at) (local.get $written)))
      (local.set $length (i32.sub (local.get $length) (local.get $written)))
      (br $more)))))

;; The decimal number that a file begins with.
(func $number (param $name i32) (param $length i32) (result i64)
  (local $at i32) (local $value i64) (local $digit i32)
  (drop (call $slurp (call $input (local.get $name) (local.get $length)) (i32.const 1024)))
  (local.set $at (i32.const 1024))
  (loop $more
    (local.set $digit (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))
    (if (i32.lt_u (local.get $digit) (i32.const 10)) (then
      (local.set $value (i64.add (i64.mul (local.get $value) (i64.const 10))
        (i64.extend_i32_u (local.get $digit))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $more))))
  (i32.store8 (i32.const 1024) (i32.const 0))
  (memory.fill (i32.const 1024) (i32.const 0) (i32.const 32))
  (local.get $value))

;; `value` in decimal to a file.
(func $decimal (param $fd i32) (param $value i64)
  (local $at i32)
  (local.set $at (i32.const 1023))
  (loop $more
    (i32.store8 (local.get $at)
      (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $value) (i64.const 10)))))
    (local.set $value (i64.div_u (local.get $value) (i64.const 10)))
    (if (i64.ne (local.get $value) (i64.const 0)) (then
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (br $more))))
  (call $write (local.get $fd) (local.get $at) (i32.sub (i32.const 1024) (local.get $at))))
