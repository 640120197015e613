//! Where bytes come from: [`event`] is what every source delivers.

pub mod event;
pub mod replay;
