//! One module per verb: build the request, run the engine, report.

pub mod try_pipeline;
