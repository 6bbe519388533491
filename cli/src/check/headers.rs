//! What filters, routes and scripts do with headers of requests. Several rules ask it.

pub mod lua;
pub mod names;
pub mod string_matcher;
pub mod written;
