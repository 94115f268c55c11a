;; Adds one to slot 0, logs the new count under the topic 0x77, and returns it.
;; memory: slot 0..32 (zeros), count 32..64, topic 64..96
(module
  (import "ghost" "storage_read" (func $storage_read (param i32 i32)))
  (import "ghost" "storage_write" (func $storage_write (param i32 i32)))
  (import "ghost" "log" (func $log (param i32 i32 i32 i32)))
  (import "ghost" "output" (func $output (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 95) "\77")
  (func (export "call")
    (local $at i32)
    (call $storage_read (i32.const 0) (i32.const 32))
    ;; The count is a big-endian number: the carry goes to the left.
    (local.set $at (i32.const 63))
    (block $done
      (loop $carry
        (i32.store8 (local.get $at) (i32.add (i32.load8_u (local.get $at)) (i32.const 1)))
        (br_if $done (i32.load8_u (local.get $at)))
        (local.set $at (i32.sub (local.get $at) (i32.const 1)))
        (br_if $carry (i32.ge_u (local.get $at) (i32.const 32)))))
    (call $storage_write (i32.const 0) (i32.const 32))
    (call $log (i32.const 64) (i32.const 1) (i32.const 32) (i32.const 32))
    (call $output (i32.const 32) (i32.const 32))))
