//! A program without std that decodes and encodes a packet.
//!
//! It brings its own panic handler and allocator: should any dependency pull std in, there would be two of each and
//! the compiler refuses (E0152). It is only ever checked, never run.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};

use veilmq_protocol::{Packet, ProtocolVersion, next_frame};

struct NoMemory;

// SAFETY: a null pointer is how an allocator says that it has no memory, and it never hands out any to free.
unsafe impl GlobalAlloc for NoMemory {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: NoMemory = NoMemory;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Where a C runtime would start.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> i32 {
    let bytes = [0xC0, 0x00];
    let mut out = Vec::new();
    match next_frame(&bytes, bytes.len()) {
        Ok(Some((frame, _))) => match Packet::decode(frame, ProtocolVersion::V5) {
            Ok(packet) => i32::from(packet.encode(ProtocolVersion::V5, &mut out).is_err()),
            Err(_) => 1,
        },
        Ok(None) | Err(_) => 1,
    }
}
