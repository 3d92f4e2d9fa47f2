//! Disks that are too small, or not to be written to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A file system of its own for a folder, as long as it is held.
pub struct SmallDisk {
    pub folder: PathBuf,
}

impl SmallDisk {
    /// Makes the folder, where there is none, and mounts so much there, as in `2M`. `None` where nothing can be mounted.
    pub fn at(folder: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(folder).expect("a folder");
        let options = format!("size={size},mode=0700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder).stderr(Stdio::null());
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Self { folder: folder.to_owned() });
        }
        eprintln!("skipped: no file system can be mounted here");
        None
    }

    /// Mounts it anew with an option, as in `ro`.
    pub fn remount(&self, option: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{option}")]).arg(&self.folder).status();
        assert!(done.expect("mount runs").success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}
