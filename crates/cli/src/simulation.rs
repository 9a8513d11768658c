//! The driver in a simulated kernel.

use std::path::Path;

use ksim::{Caller, Driver, FileHandle, Kernel, LoadOptions, Report};
use portcullis_proto::device::{ControlCode, WIN32_PATH};
use wfp_schema::NtStatus;

use crate::control::{ControlError, Device};

/// The driver that is built into this program.
const EMBEDDED: &[u8] = include_bytes!(env!("PORTCULLIS_SYS_EMBEDDED"));

/// Why the driver does not run.
#[derive(Debug, thiserror::Error)]
pub enum SimulationError {
    /// This program was built without a driver in it.
    #[error(
        "this program holds no driver: build it with `cargo xtask build`, or name one with --driver"
    )]
    NoDriver,
    /// The image cannot be read.
    #[error("{file}: {source}")]
    Read {
        /// The image.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no image.
    #[error("{file}: {source}")]
    Image {
        /// The file.
        file: String,
        /// Why not.
        source: pe_image::ImageError,
    },
    /// No threads or no memory.
    #[error("the simulated machine cannot be made: {0}")]
    Machine(#[from] std::io::Error),
    /// The image cannot be loaded.
    #[error("the driver cannot be loaded: {0}")]
    Load(#[from] ksim::LoadError),
    /// `DriverEntry` failed.
    #[error("the driver did not start: {0}")]
    Start(NtStatus),
    /// The device cannot be opened.
    #[error("the driver's control device: {0}")]
    Open(#[from] ksim::OpenError),
    /// The machine stopped.
    #[error("{0}")]
    Bugcheck(#[from] ksim::Bugcheck),
}

/// The driver image to run: the named file, or the one in this program.
///
/// # Errors
/// [`SimulationError::Read`], [`SimulationError::Image`] or [`SimulationError::NoDriver`]
pub fn driver_image(file: Option<&Path>) -> Result<Vec<u8>, SimulationError> {
    match file {
        Some(file) => {
            let name = || file.display().to_string();
            let image = std::fs::read(file).map_err(|source| SimulationError::Read {
                file: name(),
                source,
            })?;
            match pe_image::Image::parse(&image) {
                Ok(_) => Ok(image),
                Err(source) => Err(SimulationError::Image {
                    file: name(),
                    source,
                }),
            }
        }
        None if EMBEDDED.is_empty() => Err(SimulationError::NoDriver),
        None => Ok(EMBEDDED.to_vec()),
    }
}

/// The program database that lies beside a named driver image.
///
/// # Errors
/// [`SimulationError::Read`]
pub fn program_database(file: Option<&Path>) -> Result<Option<Vec<u8>>, SimulationError> {
    let beside = file.map(|file| file.with_extension("pdb"));
    beside
        .filter(|file| file.exists())
        .map(|file| driver_image(Some(&file)))
        .transpose()
}

/// A running Portcullis.
#[derive(Debug)]
pub struct Simulation {
    /// The machine.
    pub kernel: Kernel,
    driver: Driver,
    device: SimulatedDevice,
}

/// The driver's control device in the simulated kernel.
#[derive(Debug)]
pub struct SimulatedDevice(FileHandle);

impl SimulatedDevice {
    /// The device that was opened.
    #[must_use]
    pub const fn new(handle: FileHandle) -> Self {
        Self(handle)
    }

    /// Closes it.
    ///
    /// # Errors
    /// When the machine stopped.
    pub fn close(self) -> Result<(), ksim::Bugcheck> {
        self.0.close()
    }
}

impl Device for SimulatedDevice {
    fn control(
        &self,
        code: ControlCode,
        input: &[u8],
        output_size: usize,
    ) -> Result<Vec<u8>, ControlError> {
        let result = self
            .0
            .ioctl(code.raw(), input, output_size)
            .map_err(|bugcheck| ControlError::Stopped(bugcheck.to_string()))?;
        if result.status == NtStatus::SUCCESS {
            Ok(result.output)
        } else {
            Err(ControlError::Refused {
                operation: code.name(),
                status: result.status,
            })
        }
    }
}

impl Simulation {
    /// Boots a machine, loads and starts the driver in `image`, and opens its device. `pdb` is the program database
    /// of the image, for names in reports.
    ///
    /// # Errors
    /// [`SimulationError`]
    pub fn start(
        image: &[u8],
        pdb: Option<&[u8]>,
        config: &ksim::Config,
    ) -> Result<Self, SimulationError> {
        let kernel = Kernel::new(config)?;
        let options = LoadOptions {
            pdb: pdb.map(<[u8]>::to_vec),
            ..LoadOptions::named("portcullis.sys")
        };
        let driver = kernel.load(image, &options)?;
        let status = driver.start()?;
        if !status.is_success() {
            return Err(SimulationError::Start(status));
        }
        let device = SimulatedDevice::new(kernel.open(WIN32_PATH, Caller::administrator())?);
        Ok(Self {
            kernel,
            driver,
            device,
        })
    }

    /// Opens the device once more, as the program of another process.
    ///
    /// # Errors
    /// [`SimulationError::Open`]
    pub fn open_as(&self, process: u32) -> Result<SimulatedDevice, SimulationError> {
        let caller = Caller {
            process,
            ..Caller::administrator()
        };
        Ok(SimulatedDevice::new(self.kernel.open(WIN32_PATH, caller)?))
    }

    /// The control device.
    #[must_use]
    pub const fn device(&self) -> &SimulatedDevice {
        &self.device
    }

    /// Closes the device, unloads the driver, and returns what the verifier found.
    ///
    /// # Errors
    /// [`SimulationError::Bugcheck`]
    pub fn stop(self) -> Result<Report, SimulationError> {
        self.device.close()?;
        Ok(self.driver.unload()?)
    }
}
