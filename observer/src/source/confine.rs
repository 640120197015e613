//! Giving up what is needed no more once everything is attached and open: the root identity, capabilities, new privileges
//! by exec, and most system calls. What was opened before goes on: programs and their links, maps, output, listeners.

use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_keep_capabilities,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::capability::Capability;
use super::filter::{self, NOBODY};

/// Why the system-call filter is not there.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// This architecture has none.
    #[error("there is no filter for this architecture: {0}")]
    Unknown(#[from] seccompiler::BackendError),
    /// The kernel refused it.
    #[error(transparent)]
    Refused(#[from] seccompiler::Error),
}

/// What became of the root identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// It was not root's.
    Kept,
    /// It was root's, and is nobody's now.
    Nobody,
    /// It is root's still: CAP_SETUID or CAP_SETGID is missing, or this user namespace has no nobody.
    Root(Errno),
}

/// Takes from the calling thread, and all that it starts from now on, root's identity and every capability but those of
/// `keep` that it holds, and the way to new ones. For good.
///
/// Other threads stay as they are: to the kernel, identity and capabilities are each thread's own.
///
/// # Errors
///
/// When the kernel refuses what every Linux allows.
pub fn give_up(keep: &[Capability]) -> Result<Identity, Errno> {
    let identity = match geteuid().is_root() {
        true => become_nobody()?,
        false => Identity::Kept,
    };
    let left = capabilities(None)?.permitted & set(keep);
    set_capabilities(
        None,
        CapabilitySets {
            effective: left,
            permitted: left,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    set_no_new_privs(true)?;
    Ok(identity)
}

/// For threads that need nothing but what is open: [`give_up`] of everything. Does what it can.
pub fn give_up_all() {
    let _ = give_up(&[]);
}

/// Leaves all threads of this process only the system calls that an observer needs which is attached, and
/// no new privileges. For good. Others fail with ENOSYS.
///
/// # Errors
///
/// When this kernel or architecture has no filters.
pub fn filter() -> Result<(), FilterError> {
    Ok(seccompiler::apply_filter_all_threads(&filter::program()?)?)
}

/// Calls `attempt` without those capabilities in effect; they are back afterwards.
pub(super) fn without<R>(
    capability: &[Capability],
    attempt: impl FnOnce() -> R,
) -> Result<R, Errno> {
    let held = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: held.effective - set(capability),
            ..held
        },
    )?;
    let result = attempt();
    set_capabilities(None, held)?;
    Ok(result)
}

fn set(capabilities: &[Capability]) -> CapabilitySet {
    capabilities.iter().map(|one| one.set()).collect()
}

/// The capabilities stay.
fn become_nobody() -> Result<Identity, Errno> {
    set_keep_capabilities(true)?;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    let result = set_thread_groups(&[])
        .and_then(|()| set_thread_res_gid(group, group, group))
        .and_then(|()| set_thread_res_uid(user, user, user));
    set_keep_capabilities(false)?;
    Ok(result.map_or_else(Identity::Root, |()| Identity::Nobody))
}
