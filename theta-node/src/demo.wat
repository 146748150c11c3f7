;; Counts the lines on standard input and prints the number.
(module
 (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
 (memory (export "memory") 2)
 (func (export "_start") (local $lines i32) (local $at i32) (local $length i32)
  (block $end (loop $more
   (i32.store (i32.const 0) (i32.const 1024))
   (i32.store (i32.const 4) (i32.const 65536))
   (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
   (local.set $length (i32.load (i32.const 8)))
   (br_if $end (i32.eqz (local.get $length)))
   (local.set $at (i32.const 0))
   (loop $scan
    (local.set $lines (i32.add (local.get $lines)
     (i32.eq (i32.load8_u (i32.add (i32.const 1024) (local.get $at))) (i32.const 10))))
    (local.set $at (i32.add (local.get $at) (i32.const 1)))
    (br_if $scan (i32.lt_u (local.get $at) (local.get $length))))
   (br $more)))
  ;; Digits from the last to the first, in front of a newline.
  (local.set $at (i32.const 63))
  (i32.store8 (i32.const 63) (i32.const 10))
  (loop $digit
   (local.set $at (i32.sub (local.get $at) (i32.const 1)))
   (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $lines) (i32.const 10))))
   (local.set $lines (i32.div_u (local.get $lines) (i32.const 10)))
   (br_if $digit (local.get $lines)))
  (i32.store (i32.const 0) (local.get $at))
  (i32.store (i32.const 4) (i32.sub (i32.const 64) (local.get $at)))
  (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
