//! A device of whichever fabric: one branch for each call, always the same way for one peer, and no pointer to a function.

use ironband_core::config::Config;
use ironband_fabric::shm::Shm;
use ironband_fabric::sim::Sim;
#[cfg(feature = "verbs")]
use ironband_fabric::verbs::Verbs;
use ironband_fabric::{
    Access, AtomicOp, AtomicWidth, Capabilities, DeviceError, Fabric, Job, Posted, Reach, ReadHint,
    RegisterError, RemoteAddress, Unreachable, WorkId,
};

use crate::device::{Device, Handler, QueuePair, Threads};
use crate::registrations::Registration;

#[expect(
    clippy::large_enum_variant,
    reason = "there are a few of them, and a box would cost a load for each message"
)]
pub(super) enum AnyDevice {
    Shm(Device<Shm>),
    #[cfg(feature = "verbs")]
    Verbs(Device<Verbs>),
    Sim(Device<Sim>),
}

/// Memory registered with a device.
pub(super) enum AnyRegistration {
    Shm(Registration<Shm>),
    #[cfg(feature = "verbs")]
    Verbs(Registration<Verbs>),
    Sim(Registration<Sim>),
}

/// A registration, and which of a context's devices made it.
pub(super) struct Registered {
    pub(super) device: usize,
    pub(super) registration: AnyRegistration,
}

/// Does the same with a device of any fabric.
macro_rules! with {
    ($self:expr, $device:ident => $work:expr) => {
        match $self {
            AnyDevice::Shm($device) => $work,
            #[cfg(feature = "verbs")]
            AnyDevice::Verbs($device) => $work,
            AnyDevice::Sim($device) => $work,
        }
    };
}

/// Does the same with a device and a registration of its own, or none.
macro_rules! with_own {
    ($self:expr, $registration:expr, $device:ident, $own:ident => $work:expr) => {
        match ($self, $registration) {
            (AnyDevice::Shm($device), Some(AnyRegistration::Shm(own))) => {
                let $own = Some(own);
                $work
            }
            #[cfg(feature = "verbs")]
            (AnyDevice::Verbs($device), Some(AnyRegistration::Verbs(own))) => {
                let $own = Some(own);
                $work
            }
            (AnyDevice::Sim($device), Some(AnyRegistration::Sim(own))) => {
                let $own = Some(own);
                $work
            }
            (AnyDevice::Shm($device), None) => {
                let $own = None;
                $work
            }
            #[cfg(feature = "verbs")]
            (AnyDevice::Verbs($device), None) => {
                let $own = None;
                $work
            }
            (AnyDevice::Sim($device), None) => {
                let $own = None;
                $work
            }
            _ => unreachable!("a registration is used with the device that made it"),
        }
    };
}

impl AnyRegistration {
    /// What a peer needs beside an address.
    pub(super) fn key(&self) -> u64 {
        match self {
            Self::Shm(registration) => registration.key(),
            #[cfg(feature = "verbs")]
            Self::Verbs(registration) => registration.key(),
            Self::Sim(registration) => registration.key(),
        }
    }
}

impl AnyDevice {
    /// Opens a device for one thread.
    pub(super) fn open<F: Fabric>(
        name: &str,
        config: &Config,
        job: &Job,
        wrap: impl FnOnce(Device<F>) -> Self,
    ) -> Result<Self, DeviceError> {
        let mut device = Device::<F>::open(name, config, job, Threads::Single)?;
        device.yield_soon();
        Ok(wrap(device))
    }

    pub(super) const fn fabric(&self) -> &'static str {
        match self {
            Self::Shm(_) => Shm::NAME,
            #[cfg(feature = "verbs")]
            Self::Verbs(_) => Verbs::NAME,
            Self::Sim(_) => Sim::NAME,
        }
    }

    pub(super) fn name(&self) -> &str {
        with!(self, device => device.name())
    }

    pub(super) fn address(&self) -> &[u8] {
        with!(self, device => device.address())
    }

    pub(super) fn report(&self) -> String {
        with!(self, device => device.report())
    }

    pub(super) fn capabilities(&self) -> &Capabilities {
        with!(self, device => device.capabilities())
    }

    pub(super) fn reach(&self, address: &[u8]) -> Result<Reach, Unreachable> {
        with!(self, device => device.reach(address))
    }

    pub(super) fn connect(&self, address: &[u8]) -> Result<QueuePair, Unreachable> {
        with!(self, device => device.connect(address))
    }

    pub(super) fn disconnect(&self, qp: QueuePair) {
        with!(self, device => device.disconnect(qp));
    }

    pub(super) fn failure(&self, qp: QueuePair) -> Option<String> {
        with!(self, device => device.failure(qp))
    }

    #[inline(always)]
    pub(super) fn send_short(&self, qp: QueuePair, imm: u32, header: &[u8], payload: &[u8]) -> Posted {
        with!(self, device => device.send_short(qp, imm, header, payload))
    }

    pub(super) fn send_announcing(&self, qp: QueuePair, imm: u32, header: &[u8], key: u64) -> Posted {
        with!(self, device => device.send_announcing(qp, imm, header, &[], key))
    }

    #[inline(always)]
    pub(super) fn progress(&self, handler: &impl Handler) -> usize {
        with!(self, device => device.progress(handler))
    }

    #[inline(always)]
    pub(super) fn watch(&self) {
        with!(self, device => device.watch());
    }

    #[inline(always)]
    pub(super) fn reset_patience(&self) {
        with!(self, device => device.reset_patience());
    }

    pub(super) fn take_notice(&self) -> Option<String> {
        with!(self, device => device.take_warning().or_else(|| device.take_notice()))
    }

    pub(super) fn is_idle(&self) -> bool {
        with!(self, device => device.is_idle())
    }

    /// # Safety
    /// As [`Device::register`].
    pub(super) unsafe fn register(
        &self,
        start: *mut u8,
        len_bytes: usize,
        access: Access,
    ) -> Result<AnyRegistration, RegisterError> {
        // SAFETY: as promised by the caller.
        unsafe {
            match self {
                Self::Shm(device) => device.register(start, len_bytes, access).map(AnyRegistration::Shm),
                #[cfg(feature = "verbs")]
                Self::Verbs(device) => device.register(start, len_bytes, access).map(AnyRegistration::Verbs),
                Self::Sim(device) => device.register(start, len_bytes, access).map(AnyRegistration::Sim),
            }
        }
    }

    /// # Safety
    /// As [`Device::register_to_send`].
    pub(super) unsafe fn register_to_send(
        &self,
        start: *mut u8,
        len_bytes: usize,
        access: Access,
    ) -> Result<Option<AnyRegistration>, RegisterError> {
        // SAFETY: as promised by the caller.
        unsafe {
            Ok(match self {
                Self::Shm(device) => {
                    device.register_to_send(start, len_bytes, access)?.map(AnyRegistration::Shm)
                }
                #[cfg(feature = "verbs")]
                Self::Verbs(device) => {
                    device.register_to_send(start, len_bytes, access)?.map(AnyRegistration::Verbs)
                }
                Self::Sim(device) => {
                    device.register_to_send(start, len_bytes, access)?.map(AnyRegistration::Sim)
                }
            })
        }
    }

    pub(super) fn deregister(&self, registration: AnyRegistration) {
        match (self, registration) {
            (Self::Shm(device), AnyRegistration::Shm(registration)) => device.deregister(registration),
            #[cfg(feature = "verbs")]
            (Self::Verbs(device), AnyRegistration::Verbs(registration)) => device.deregister(registration),
            (Self::Sim(device), AnyRegistration::Sim(registration)) => device.deregister(registration),
            _ => unreachable!("a registration is given back to the device that made it"),
        }
    }

    /// # Safety
    /// As [`Device::get`].
    pub(super) unsafe fn get(
        &self,
        qp: QueuePair,
        id: WorkId,
        local: *mut u8,
        registration: Option<&AnyRegistration>,
        remote: RemoteAddress,
        len_bytes: usize,
        hint: ReadHint,
    ) -> Posted {
        // SAFETY: as promised by the caller.
        with_own!(self, registration, device, own => unsafe { device.get(qp, id, local, own, remote, len_bytes, hint) })
    }

    /// # Safety
    /// As [`Device::put`].
    pub(super) unsafe fn put(
        &self,
        qp: QueuePair,
        id: WorkId,
        local: *const u8,
        registration: Option<&AnyRegistration>,
        remote: RemoteAddress,
        len_bytes: usize,
    ) -> Posted {
        // SAFETY: as promised by the caller.
        with_own!(self, registration, device, own => unsafe { device.put(qp, id, local, own, remote, len_bytes) })
    }

    /// # Safety
    /// As [`Device::atomic`].
    pub(super) unsafe fn atomic(
        &self,
        qp: QueuePair,
        id: WorkId,
        result: *mut u8,
        remote: RemoteAddress,
        op: AtomicOp,
        width: AtomicWidth,
    ) -> Posted {
        // SAFETY: as promised by the caller.
        unsafe { with!(self, device => device.atomic(qp, id, result, remote, op, width)) }
    }
}
