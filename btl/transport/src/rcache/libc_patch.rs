//! A source for processes without one: the places in libc and in the loader that make the system calls in question are changed, so
//! that they come by here first.
//!
//! libc calls itself directly, so tables of function pointers are of no use, and functions that others patch at their entry are
//! left alone: what is changed is the system call, whoever makes it. In glibc it always is the seven bytes
//!
//! ```text
//!  b8 NN 00 00 00   mov eax, number           e9 .. .. .. ..   jmp stub
//!  0f 05            syscall             ->    66 90            nop
//! ```
//!
//! The stub, one for each place and near enough for the jump, calls [`come_by`], which keeps all registers as the kernel would. What
//! a program does by `syscall(2)`, or by instructions of its own as Go programs and the crate rustix do, is not seen; [`super::source::try_out`]
//! is for libraries that change the same places later.

use std::arch::{asm, naked_asm};
use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::losses::{self, Call, losses};
use super::range::{PAGE_BYTES, Range};
use super::source;

const SITE_BYTES: usize = 7;
/// Of the objects that are looked at.
const OBJECTS: [&str; 2] = ["libc.so.6", "ld-linux-x86-64.so.2"];
/// Without these in libc the patch is worth nothing.
const NEEDED: [(u32, &str); 5] = [
    (losses::number::MMAP, "mmap"),
    (losses::number::MUNMAP, "munmap"),
    (losses::number::BRK, "brk"),
    (losses::number::MREMAP, "mremap"),
    (losses::number::MADVISE, "madvise"),
];

/// Where the heap ends, as far as is known.
static BREAK: AtomicUsize = AtomicUsize::new(0);

/// The registers of a system call, as [`come_by`] lays them down.
#[repr(C)]
struct Frame {
    rax: u64,
    rdi: u64,
    rsi: u64,
    rdx: u64,
    r10: u64,
    r8: u64,
    r9: u64,
    _padding: u64,
}

/// Comes between a program and the kernel. Whoever calls may have anything in any register, and any lock.
extern "C" fn mediate(frame: &mut Frame) {
    let arguments = [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9];
    let call = Call { number: frame.rax, arguments };
    let [first, second] = losses(&call, BREAK.load(Ordering::Relaxed));
    let around = |range: Option<Range>, inner: &mut dyn FnMut()| match range {
        Some(range) => source::around(range.start, range.len_bytes(), inner),
        None => inner(),
    };
    let mut enter_kernel = || {
        // SAFETY: the call that the program was about to make.
        frame.rax = unsafe { system_call(&call) };
    };
    around(first, &mut || around(second, &mut enter_kernel));
    if call.number == u64::from(losses::number::BRK) {
        BREAK.store(frame.rax as usize, Ordering::Relaxed);
    }
}

/// # Safety
/// As the system call.
#[inline(always)]
unsafe fn system_call(call: &Call) -> u64 {
    let [a, b, c, d, e, f] = call.arguments;
    let result;
    // SAFETY: as promised by the caller; the kernel changes rax, rcx and r11.
    unsafe {
        asm!("syscall", inlateout("rax") call.number => result, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// Called by the stubs with the registers of a system call; returns with those that the kernel leaves. The vector registers of SSE are kept
/// as well: compilers may hold something there across an inlined system call. (Not the upper halves of wider ones: in glibc each of these
/// calls is a function of its own.)
///
/// # Safety
/// Nobody but a stub calls it.
// SAFETY: the assembly below is the whole function: it keeps the stack as it found it, and returns.
#[unsafe(naked)]
unsafe extern "C" fn come_by() {
    naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        "and rsp, -16",
        "sub rsp, 64 + 256",
        "mov [rsp], rax",
        "mov [rsp + 8], rdi",
        "mov [rsp + 16], rsi",
        "mov [rsp + 24], rdx",
        "mov [rsp + 32], r10",
        "mov [rsp + 40], r8",
        "mov [rsp + 48], r9",
        "movaps [rsp + 64], xmm0",
        "movaps [rsp + 80], xmm1",
        "movaps [rsp + 96], xmm2",
        "movaps [rsp + 112], xmm3",
        "movaps [rsp + 128], xmm4",
        "movaps [rsp + 144], xmm5",
        "movaps [rsp + 160], xmm6",
        "movaps [rsp + 176], xmm7",
        "movaps [rsp + 192], xmm8",
        "movaps [rsp + 208], xmm9",
        "movaps [rsp + 224], xmm10",
        "movaps [rsp + 240], xmm11",
        "movaps [rsp + 256], xmm12",
        "movaps [rsp + 272], xmm13",
        "movaps [rsp + 288], xmm14",
        "movaps [rsp + 304], xmm15",
        "mov rdi, rsp",
        "call {mediate}",
        "mov rax, [rsp]",
        "mov rdi, [rsp + 8]",
        "mov rsi, [rsp + 16]",
        "mov rdx, [rsp + 24]",
        "mov r10, [rsp + 32]",
        "mov r8, [rsp + 40]",
        "mov r9, [rsp + 48]",
        "movaps xmm0, [rsp + 64]",
        "movaps xmm1, [rsp + 80]",
        "movaps xmm2, [rsp + 96]",
        "movaps xmm3, [rsp + 112]",
        "movaps xmm4, [rsp + 128]",
        "movaps xmm5, [rsp + 144]",
        "movaps xmm6, [rsp + 160]",
        "movaps xmm7, [rsp + 176]",
        "movaps xmm8, [rsp + 192]",
        "movaps xmm9, [rsp + 208]",
        "movaps xmm10, [rsp + 224]",
        "movaps xmm11, [rsp + 240]",
        "movaps xmm12, [rsp + 256]",
        "movaps xmm13, [rsp + 272]",
        "movaps xmm14, [rsp + 288]",
        "movaps xmm15, [rsp + 304]",
        "mov rsp, rbp",
        "pop rbp",
        "ret",
        mediate = sym mediate,
    )
}

/// A stub, for a place at `site`. It steps over the red zone, which the place may use.
fn stub(at: usize, site: usize, number: u32) -> Option<Vec<u8>> {
    let mut code = vec![0x48, 0x8d, 0x64, 0x24, 0x80]; // lea rsp, [rsp - 128]
    code.push(0xb8); // mov eax, number
    code.extend(number.to_le_bytes());
    code.extend([0xff, 0x15]); // call [rip + to the address at the end]
    code.extend(13_i32.to_le_bytes());
    code.extend([0x48, 0x8d, 0xa4, 0x24, 0x80, 0, 0, 0]); // lea rsp, [rsp + 128]
    let jump = at + code.len();
    code.push(0xe9); // jmp behind the place
    code.extend(displacement(jump, site + SITE_BYTES)?.to_le_bytes());
    code.extend((come_by as *const () as usize).to_le_bytes());
    Some(code)
}

/// Of a jump with 32 bits, five bytes long.
fn displacement(from: usize, to: usize) -> Option<i32> {
    i32::try_from(to.wrapping_sub(from + 5) as isize).ok()
}

/// A place in an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Site {
    address: usize,
    number: u32,
}

/// The places in executable memory that make one of the system calls.
fn sites(start: usize, code: &[u8]) -> Vec<Site> {
    let found = code.windows(SITE_BYTES).enumerate().filter_map(|(at, window)| {
        let &[0xb8, a, b, c, d, 0x0f, 0x05] = window else { return None };
        let number = u32::from_le_bytes([a, b, c, d]);
        losses::number::ALL.contains(&number).then_some(Site { address: start + at, number })
    });
    found.collect()
}

/// Executable memory of the objects in question, by the name of the object.
fn executable() -> Vec<(String, usize, usize)> {
    /// # Safety
    /// The loader calls it, with the vector below.
    unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _size: usize, found: *mut c_void) -> c_int {
        // SAFETY: the loader's structure, and the vector of the caller.
        unsafe {
            let (info, found) = (&*info, &mut *found.cast::<Vec<(String, usize, usize)>>());
            let name = CStr::from_ptr(info.dlpi_name).to_string_lossy().into_owned();
            if OBJECTS.iter().any(|object| name.ends_with(&format!("/{object}"))) {
                let headers = std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into());
                let code =
                    headers.iter().filter(|it| it.p_type == libc::PT_LOAD && it.p_flags & libc::PF_X != 0);
                found.extend(
                    code.map(|it| {
                        (name.clone(), (info.dlpi_addr + it.p_vaddr) as usize, it.p_memsz as usize)
                    }),
                );
            }
        }
        0
    }
    let mut found = Vec::new();
    // SAFETY: the callback takes the vector, and does not keep it.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut found).cast()) };
    found
}

/// Changes libc and the loader of this process, for ever.
///
/// # Safety
/// No other thread runs: it might be at one of the places.
///
/// # Errors
/// Why it cannot be done, in one clause; nothing was changed then.
pub(super) unsafe fn install() -> Result<(), String> {
    let objects = executable();
    let mut all = Vec::new();
    for (name, start, len_bytes) in &objects {
        // SAFETY: mapped by the loader, readable as Linux maps code, and nobody writes there.
        let code = unsafe { std::slice::from_raw_parts(*start as *const u8, *len_bytes) };
        let found = sites(*start, code);
        if name.ends_with(OBJECTS[0]) {
            for (number, call) in NEEDED {
                if !found.iter().any(|site| site.number == number) {
                    return Err(format!(
                        "{name} does not make the system call {call} as glibc does: another library has patched it before, or it is not glibc"
                    ));
                }
            }
        }
        all.extend(found);
    }
    if !objects.iter().any(|(name, ..)| name.ends_with(OBJECTS[0])) {
        return Err("this process has no libc.so.6: it is linked statically, or not with glibc".to_owned());
    }
    // SAFETY: asks where the heap ends.
    let heap_end = unsafe { system_call(&Call { number: losses::number::BRK.into(), arguments: [0; 6] }) };
    BREAK.store(heap_end as usize, Ordering::Relaxed);
    // SAFETY: as promised by the caller.
    unsafe { redirect(&all) }
}

/// # Safety
/// As for [`install`]; the places are as [`sites`] found them.
unsafe fn redirect(all: &[Site]) -> Result<(), String> {
    const STUB_BYTES: usize = 48;
    let near = all.first().ok_or("there is nothing to patch")?.address;
    let len_bytes = (all.len() * STUB_BYTES).next_multiple_of(PAGE_BYTES);
    let page = map_near(near, len_bytes).ok_or("there is no memory near libc for the stubs")?;
    let mut changes = Vec::new();
    for (index, site) in all.iter().enumerate() {
        let at = page as usize + index * STUB_BYTES;
        let too_far = || "libc and the loader are too far apart for one page of stubs".to_owned();
        let code = stub(at, site.address, site.number).ok_or_else(too_far)?;
        assert!(code.len() <= STUB_BYTES, "a stub of {} bytes", code.len());
        // SAFETY: inside the new page, which is writable.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), at as *mut u8, code.len()) };
        let mut jump = [0xe9, 0, 0, 0, 0, 0x66, 0x90];
        jump[1..5].copy_from_slice(&displacement(site.address, at).ok_or_else(too_far)?.to_le_bytes());
        changes.push((site.address, jump));
    }
    protect(page as usize, len_bytes, libc::PROT_READ | libc::PROT_EXEC)?;
    // All pages first: once the first place is changed there is no way back.
    let writable = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let executable = libc::PROT_READ | libc::PROT_EXEC;
    let writable_all = changes.iter().try_for_each(|(address, _)| protect(*address, SITE_BYTES, writable));
    if writable_all.is_err() {
        for (address, _) in &changes {
            let _ = protect(*address, SITE_BYTES, executable);
        }
        return writable_all;
    }
    for (address, jump) in &changes {
        // SAFETY: code of seven bytes, writable now, where no thread is.
        unsafe { std::ptr::copy_nonoverlapping(jump.as_ptr(), *address as *mut u8, SITE_BYTES) };
    }
    for (address, _) in &changes {
        // What stays writable works all the same.
        let _ = protect(*address, SITE_BYTES, executable);
    }
    Ok(())
}

fn protect(start: usize, len_bytes: usize, protection: c_int) -> Result<(), String> {
    let first = start & !(PAGE_BYTES - 1);
    // SAFETY: code stays readable and executable.
    let returned = unsafe { libc::mprotect(first as *mut c_void, start + len_bytes - first, protection) };
    if returned == 0 {
        Ok(())
    } else {
        Err(format!(
            "the system does not let a program change its code ({}); SELinux calls that execmod",
            std::io::Error::last_os_error()
        ))
    }
}

/// New pages within reach of a jump from `near`.
fn map_near(near: usize, len_bytes: usize) -> Option<*mut c_void> {
    const STEP: usize = 1 << 20;
    const REACH: usize = 1 << 30;
    (1..REACH / STEP)
        .flat_map(|step| [near.checked_sub(step * STEP), near.checked_add(step * STEP)])
        .flatten()
        .find_map(|hint| {
            let hint = (hint & !(PAGE_BYTES - 1)) as *mut c_void;
            let (protection, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            );
            // SAFETY: new pages, where there are none.
            let pages = unsafe { libc::mmap(hint, len_bytes, protection, flags, -1, 0) };
            if pages == hint {
                return Some(pages);
            }
            if pages != libc::MAP_FAILED {
                // A kernel before 4.17 takes the address for a wish.
                // SAFETY: pages that nobody knows of.
                unsafe { libc::munmap(pages, len_bytes) };
            }
            None
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_pattern_is_a_site() {
        let munmap = [0xb8, 11, 0, 0, 0, 0x0f, 0x05];
        let read = [0xb8, 0, 0, 0, 0, 0x0f, 0x05];
        let far = [0xb8, 11, 0, 0, 0, 0x90, 0x0f, 0x05];
        let code = [&munmap[..], &read, &far, &munmap].concat();
        let found = [Site { address: 100, number: 11 }, Site { address: 122, number: 11 }];
        assert_eq!(sites(100, &code), found);
    }

    #[test]
    fn jumps_reach_two_gibibytes() {
        assert_eq!(displacement(1000, 1005), Some(0));
        assert_eq!(displacement(1000, 900), Some(-105));
        assert_eq!(displacement(0x7000_0000_0000, 0x7000_0000_0000 + (1 << 31) + 4), Some(i32::MAX));
        assert_eq!(displacement(0x7000_0000_0000, 0x7000_0000_0000 + (1 << 31) + 5), None);
    }

    #[test]
    fn this_libc_makes_all_calls_in_question_in_the_known_way() {
        let objects = executable();
        let libc = objects.iter().find(|(name, ..)| name.ends_with(OBJECTS[0])).expect("libc");
        // SAFETY: code of libc's.
        let code = unsafe { std::slice::from_raw_parts(libc.1 as *const u8, libc.2) };
        let found = sites(libc.1, code);
        for (number, call) in NEEDED {
            assert!(found.iter().any(|site| site.number == number), "{call}");
        }
    }
}
