//! The store as the broker uses it: what was committed is there again, whatever happens to the process or the files.
#![allow(clippy::unwrap_used, reason = "a test ends where its helpers cannot go on")]

mod cost;
mod crash;
mod damage;
mod fetch;
mod full;
mod model;
mod replay;
mod room;
mod writer;
