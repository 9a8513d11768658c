//! `std` as `wdk-build` expects it on a Windows host: the host's own, plus the one function of
//! `std::os::windows` that the crate names.

pub use ::std::*;

/// The host's `std::os` with a `windows` module added.
pub mod os {
    pub use ::std::os::*;

    /// Windows-specific extensions, as far as `wdk-build` names them.
    pub mod windows {
        /// File system extensions.
        pub mod fs {
            pub use ::std::os::unix::fs::symlink as symlink_file;
        }
    }
}
