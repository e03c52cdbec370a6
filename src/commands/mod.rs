//! One module per verb: build the request, run the engine, report.

mod grace;
pub mod hook;
