//! The stub trainer without a C library, which asks the processor what it is at every start: on a virtual machine each
//! question is an exit to the host, and hundreds of starts a second would measure little else. Built by `fleet.rs`.
//!
//! It does what `tests/src/bin/stub-trainer.rs` does; whatever fails ends it with status 1.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "system calls")]

#[path = "../../src/stub_words.rs"]
mod stub_words;

use core::arch::{asm, global_asm};

use stub_words::{CONFIG, FINISHED, STARTED, WEIGHTS_BYTES};

const READ: usize = 0;
const WRITE: usize = 1;
const OPEN: usize = 2;
const EXIT_GROUP: usize = 231;

const READ_ONLY: usize = 0;
/// For writing, made anew.
const CREATE: usize = 0o1101;

// The kernel puts the number of arguments and then pointers to them where the stack begins.
global_asm!(".globl _start", "_start:", "mov rdi, rsp", "and rsp, -16", "call {begin}", begin = sym begin);

unsafe extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: as the kernel lays it out; `trainer ORDER` are arguments 1 and 2.
    let order = unsafe { (*stack == 3).then(|| *stack.add(3)) };
    let status = usize::from(order.and_then(work).is_none());
    loop {
        call(EXIT_GROUP, [status, 0, 0]);
    }
}

/// `order`: the address of a path that ends with a zero.
fn work(order: usize) -> Option<()> {
    // Statics are zeros without anybody to fill them.
    static mut TEXT: [u8; WEIGHTS_BYTES] = [0; WEIGHTS_BYTES];
    static mut WEIGHTS: [u8; WEIGHTS_BYTES] = [0; WEIGHTS_BYTES];
    // SAFETY: this runs once, on the only thread.
    let (text, weights) = unsafe { (&mut *(&raw mut TEXT), &mut *(&raw mut WEIGHTS)) };
    let file = call(OPEN, [order, READ_ONLY, 0])?;
    let length = call(READ, [file, text.as_mut_ptr() as usize, text.len()])?;
    say(1, STARTED)?;
    // The order names the attempt's folder, so no two adapters are alike.
    let mut at = 0;
    for byte in &mut *weights {
        *byte = *text.get(at)?;
        at = if at + 1 < length { at + 1 } else { 0 };
    }
    write(b"out/adapter_config.json\0", CONFIG)?;
    write(b"out/adapter_model.safetensors\0", weights)?;
    say(1, FINISHED)
}

fn write(path: &[u8], bytes: &[u8]) -> Option<()> {
    say(call(OPEN, [path.as_ptr() as usize, CREATE, 0o644])?, bytes)
}

fn say(file: usize, bytes: &[u8]) -> Option<()> {
    let written = call(WRITE, [file, bytes.as_ptr() as usize, bytes.len()])?;
    (written == bytes.len()).then_some(())
}

/// What the kernel answers, unless it is an error.
fn call(number: usize, [first, second, third]: [usize; 3]) -> Option<usize> {
    let mut answer = number;
    // SAFETY: addresses and lengths are those of slices and of the kernel's own strings.
    unsafe {
        asm!("syscall", inlateout("rax") answer, in("rdi") first, in("rsi") second, in("rdx") third,
             lateout("rcx") _, lateout("r11") _);
    }
    // The last page's addresses are errors.
    (answer < usize::MAX - 4095).then_some(answer)
}

#[panic_handler]
fn fail(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        call(EXIT_GROUP, [1, 0, 0]);
    }
}
