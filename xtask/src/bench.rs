//! `bench`.
use anyhow::Result;
#[derive(Debug, clap::Args)]
pub(crate) struct Options {}
pub(crate) fn task(_: &Options) -> Result<()> {
    Ok(())
}
