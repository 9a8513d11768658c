//! The conformance driver: what a test asks of it by messages.

use std::path::PathBuf;
use std::sync::OnceLock;

use conformance_messages::{Message, Record, Reply, TakeRecords, WIN32_PATH};
use ksim::{Bugcheck, Caller, FileHandle, Kernel};
use portcullis_tests::control::alive;
use wfp_schema::NtStatus;
use zerocopy::{FromBytes as _, IntoBytes as _};

/// Names the image of the conformance driver.
const VARIABLE: &str = "PORTCULLIS_CONFORMANCE_SYS";

/// Where `cargo xtask build --conformance` leaves it.
const PLACE: &str = "../target/driver/x86_64-pc-windows-msvc/release/conformance.sys";

/// The driver's image.
pub(crate) fn image() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let built = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(PLACE);
        let path = std::env::var_os(VARIABLE).map_or(built, PathBuf::from);
        std::fs::read(&path).unwrap_or_else(|error| {
            panic!(
                "no conformance driver at {} ({error}): `cargo xtask build --conformance` builds it",
                path.display()
            )
        })
    })
}

/// The driver's device, opened.
#[derive(Debug)]
pub(crate) struct Agent(FileHandle);

/// Records that are taken at a time.
const ROOM: usize = 128;

impl Agent {
    pub(crate) fn open(kernel: &Kernel) -> Self {
        let opened = kernel.open(WIN32_PATH, Caller::administrator());
        Self(opened.unwrap_or_else(|error| panic!("{error}")))
    }

    /// Has the driver make a call.
    pub(crate) fn call<M: Message>(&self, message: &M) -> Reply {
        let result = alive(
            self.0
                .ioctl(M::CODE, message.as_bytes(), size_of::<Reply>()),
        );
        assert_eq!(
            result.status,
            NtStatus::SUCCESS,
            "the message is understood"
        );
        Reply::read_from_bytes(&result.output).expect("a reply")
    }

    /// Has the driver make a call that stops the machine.
    pub(crate) fn stops<M: Message>(&self, message: &M) -> Bugcheck {
        let result = self
            .0
            .ioctl(M::CODE, message.as_bytes(), size_of::<Reply>());
        result.expect_err("the machine stops")
    }

    /// Has the driver make a call; its status.
    pub(crate) fn status<M: Message>(&self, message: &M) -> NtStatus {
        NtStatus::from_u32(self.call(message).status)
    }

    /// Takes what the driver has recorded.
    pub(crate) fn take_records(&self) -> Vec<Record> {
        let mut taken = Vec::new();
        loop {
            let size = size_of::<Reply>() + ROOM * size_of::<Record>();
            let request = TakeRecords { reserved: 0 };
            let result = alive(self.0.ioctl(TakeRecords::CODE, request.as_bytes(), size));
            let (reply, records) = Reply::read_from_prefix(&result.output).expect("a reply");
            let records = <[Record]>::ref_from_bytes(records).expect("records");
            taken.extend_from_slice(records);
            if (reply.records as usize) < ROOM {
                return taken;
            }
        }
    }

    pub(crate) fn close(self) {
        alive(self.0.close());
    }
}
