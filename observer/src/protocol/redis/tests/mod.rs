//! Byte tables: complete messages, every cut of them, gaps, malformed input, budgets.

mod connection;
mod gaps;
mod replies;
mod requests;
mod table;
