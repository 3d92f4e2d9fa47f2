//! The system calls that an isolated command has no use for but to get out: denied by a filter (seccomp(2)).

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Denied with EPERM: what loads code into the kernel, looks at all of it, keeps keys for it, or changes mounts and time.
const DENIED: [i64; 29] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsopen,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// The families of sockets that there are inside: with others (VSOCK, packets, Bluetooth) one gets past a network namespace.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Terminal requests that put words into the mouth of whoever reads it next.
const TERMINAL: [u64; 2] = [libc::TIOCSTI, 0x541c /* TIOCLINUX */];

/// Calls that set a mode, each with the number of the argument that is it.
const SETTING_MODES: &[(i64, u8)] = &[
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (libc::SYS_mknodat, 2),
    (452, 2), // fchmodat2, which has this number on every processor
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, 1),
];

/// Calls that open a file, each with the number of the argument that is its flags; the mode is the next one.
const OPENING: &[(i64, u8)] = &[
    (libc::SYS_openat, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1),
];

/// With one of these flags a call that opens makes a file: else its mode is anything. The second is that of `O_TMPFILE` alone,
/// without `O_DIRECTORY`.
const MAKING: [libc::c_int; 2] = [libc::O_CREAT, libc::O_TMPFILE & !libc::O_DIRECTORY];

/// System calls of x86-64's x32 interface have numbers of their own, from here on, which rules by number do not see.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// The filters, as the kernel takes them: one that denies, and one for calls that a program must believe not to exist.
///
/// # Errors
///
/// On a processor for which no filter can be made.
pub(super) fn filters() -> Result<[Vec<u8>; 2], String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|number| (*number, Vec::new())).collect();
    let condition = |argument, operation, value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operation, value).map_err(|error| error.to_string())
    };
    let rule = |conditions| SeccompRule::new(conditions).map_err(|error| error.to_string());
    let is_other = |family: &libc::c_int| condition(0, SeccompCmpOp::Ne, u64::from(family.unsigned_abs()));
    rules.insert(libc::SYS_socket, vec![rule(FAMILIES.iter().map(is_other).collect::<Result<_, _>>()?)?]);
    let requests = TERMINAL.iter().map(|request| rule(vec![condition(1, SeccompCmpOp::Eq, *request)?]));
    rules.insert(libc::SYS_ioctl, requests.collect::<Result<_, _>>()?);
    let new_user = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
    let is_new_user = condition(0, SeccompCmpOp::MaskedEq(new_user), new_user)?;
    rules.insert(libc::SYS_clone, vec![rule(vec![is_new_user])?]);
    // outside, where no mount is in between, any user could run such a program as who made it
    let sets_user_id = |argument| {
        let bit = u64::from(libc::S_ISUID);
        condition(argument, SeccompCmpOp::MaskedEq(bit), bit)
    };
    for (number, mode) in SETTING_MODES {
        rules.insert(*number, vec![rule(vec![sets_user_id(*mode)?])?]);
    }
    for (number, flags) in OPENING {
        let making = MAKING.iter().map(|flag| {
            let flag = u64::from(flag.unsigned_abs());
            rule(vec![condition(*flags, SeccompCmpOp::MaskedEq(flag), flag)?, sets_user_id(*flags + 1)?])
        });
        rules.insert(*number, making.collect::<Result<_, _>>()?);
    }
    let mut denying = without_x32();
    denying.extend(program(rules, libc::EPERM, arch)?);
    // their flags are in memory, where a filter cannot look; libraries fall back to clone and openat
    let unseen = [libc::SYS_clone3, libc::SYS_openat2].map(|number| (number, Vec::new()));
    let missing = program(BTreeMap::from(unseen), libc::ENOSYS, arch)?;
    Ok([denying, missing])
}

fn program(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32, arch: TargetArch) -> Result<Vec<u8>, String> {
    let action = SeccompAction::Errno(errno.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch).map_err(|error| error.to_string())?;
    let program: BpfProgram = filter.try_into().map_err(|error: seccompiler::BackendError| error.to_string())?;
    Ok(bytes(&program))
}

/// Instructions that deny all of the x32 interface, to stand before others.
#[cfg(target_arch = "x86_64")]
fn without_x32() -> Vec<u8> {
    use seccompiler::sock_filter;
    let number = sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: 0 };
    let is_x32 = sock_filter { code: (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16, jt: 0, jf: 1, k: X32 };
    let errno = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    let deny = sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: errno };
    bytes(&[number, is_x32, deny])
}

#[cfg(not(target_arch = "x86_64"))]
fn without_x32() -> Vec<u8> {
    Vec::new()
}

fn bytes(program: &[seccompiler::sock_filter]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_are_programs_that_the_kernel_could_take() {
        for filter in filters().unwrap() {
            assert!(!filter.is_empty() && filter.len() % 8 == 0 && filter.len() / 8 < 4096);
        }
    }
}
