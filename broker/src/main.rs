//! The VeilMQ broker daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    veilmq::cli::main(std::env::args_os())
}
