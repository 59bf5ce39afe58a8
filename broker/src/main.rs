//! The VeilMQ broker daemon.

use std::process::ExitCode;

/// Half the memory of glibc's allocator, and faster with many messages in flight. Elsewhere than on x86-64 the size of pages is
/// known only when the program runs, which this allocator has to know when it is built.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    veilmq::cli::main(std::env::args_os())
}
