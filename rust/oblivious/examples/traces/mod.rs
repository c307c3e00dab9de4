//! Traces of a kernel: every instruction's address, and those of its memory operands.
//!
//! ```text
//! PROGRAM run KERNEL ENGINE SIZE SEED      for valgrind, which sees every access; prints where `marker` is
//! PROGRAM step KERNEL ENGINE SIZE SEED...  single steps: the trace's digest for each seed
//! ```
use iced_x86::{Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Register};
use std::collections::HashMap;
use std::hint::black_box;

/// A kernel with its input.
pub type Work = Box<dyn FnOnce()>;

/// Forks a child that prepares its work and waits to be stepped.
fn begun(prepare: impl FnOnce() -> Work) -> i32 {
    // SAFETY: this program has one thread, so the child may go on as if nothing had happened.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // Made here, so that every child has its input at the same places.
        let work = prepare();
        // SAFETY: plain system calls; the parent waits for both stops.
        unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::raise(libc::SIGSTOP);
        }
        work();
        // SAFETY: ends the child without running anything else of it.
        unsafe {
            libc::raise(libc::SIGSTOP);
            libc::_exit(0);
        }
    }
    assert!(child > 0, "no child");
    child
}

/// Runs the work of a child one step at a time; returns the number of steps and the digest of the trace.
fn stepped(child: i32) -> (u64, u64) {
    let mut status = 0;
    let mut stopped = |how: &str| {
        // SAFETY: `status` outlives the call.
        let ended = unsafe { libc::waitpid(child, &mut status, 0) };
        assert!(ended == child, "{how}");
        assert!(
            libc::WIFSTOPPED(status),
            "{how}: the kernel ended by itself, status {status}"
        );
        libc::WSTOPSIG(status)
    };
    assert_eq!(stopped("start"), libc::SIGSTOP);
    let mut code: HashMap<u64, Instruction> = HashMap::new();
    let mut info = InstructionInfoFactory::new();
    let (mut steps, mut digest) = (0u64, 0xcbf2_9ce4_8422_2325_u64);
    loop {
        // SAFETY: all zeros are a value of it.
        let mut now: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        // SAFETY: the child is stopped, and `now` is of the size that the call fills.
        unsafe {
            libc::ptrace(libc::PTRACE_GETREGS, child, 0, &mut now);
        }
        let instruction = code.entry(now.rip).or_insert_with(|| {
            // The child is a copy of this program: its code is ours. Of the kernel's own page nothing is read.
            let mut bytes = [0u8; 16];
            // SAFETY: `rip` is the address of an instruction that is mapped here too; a copy of 16 bytes may go beyond
            // the end of a page, so it is made by the kernel, which says so instead of faulting.
            let copied = unsafe {
                let to = libc::iovec {
                    iov_base: bytes.as_mut_ptr().cast(),
                    iov_len: bytes.len(),
                };
                let from = libc::iovec {
                    iov_base: now.rip as *mut _,
                    iov_len: bytes.len(),
                };
                libc::process_vm_readv(child, &to, 1, &from, 1, 0)
            };
            assert!(copied > 0, "the code at {:#x} cannot be read", now.rip);
            Decoder::with_ip(64, &bytes, now.rip, DecoderOptions::NONE).decode()
        });
        let mut mix = |word: u64| {
            digest = (digest ^ word)
                .wrapping_mul(0x0100_0000_01b3)
                .rotate_left(23)
        };
        mix(now.rip);
        for memory in info.info(instruction).used_memory() {
            let at = memory.virtual_address(0, |register, _, _| register_of(&now, register));
            mix(at.expect("an address that registers give"));
        }
        steps += 1;
        // SAFETY: the child is stopped.
        unsafe {
            libc::ptrace(libc::PTRACE_SINGLESTEP, child, 0, 0);
        }
        if stopped("step") == libc::SIGSTOP {
            break;
        }
    }
    // SAFETY: the child has done its work.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, &mut status, 0);
    }
    (steps, digest)
}

fn register_of(now: &libc::user_regs_struct, register: Register) -> Option<u64> {
    Some(match register {
        Register::RAX => now.rax,
        Register::RBX => now.rbx,
        Register::RCX => now.rcx,
        Register::RDX => now.rdx,
        Register::RSI => now.rsi,
        Register::RDI => now.rdi,
        Register::RBP => now.rbp,
        Register::RSP => now.rsp,
        Register::R8 => now.r8,
        Register::R9 => now.r9,
        Register::R10 => now.r10,
        Register::R11 => now.r11,
        Register::R12 => now.r12,
        Register::R13 => now.r13,
        Register::R14 => now.r14,
        Register::R15 => now.r15,
        Register::RIP => now.rip,
        Register::FS => now.fs_base,
        Register::GS => now.gs_base,
        Register::CS | Register::DS | Register::ES | Register::SS => 0,
        _ => return None,
    })
}

/// Stands in the trace before and after the kernel; what the program does before depends on its start.
#[inline(never)]
fn marker() {
    black_box(0);
}

/// Runs what the command line asks for; `prepared` makes a kernel with its input from kernel, engine, size and seed.
pub fn run(prepared: fn(&str, &str, usize, u64) -> Work) {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [how, kernel, engine, size, seeds @ ..] = &words[..] else {
        panic!("kernels run|step KERNEL ENGINE SIZE SEED...");
    };
    let size = size.parse().expect("a size");
    let seeds: Vec<u64> = seeds
        .iter()
        .map(|seed| seed.parse().expect("a seed"))
        .collect();
    match how.as_str() {
        "run" => {
            println!("marker {:#x}", marker as fn() as usize);
            for seed in seeds {
                let work = prepared(kernel, engine, size, seed);
                marker();
                work();
                marker();
            }
        }
        "step" => {
            // All begin before the first is stepped, so that they are copies of the same memory.
            let mut children = Vec::with_capacity(seeds.len());
            for seed in seeds {
                children.push(begun(|| prepared(kernel, engine, size, seed)));
            }
            for child in children {
                let (steps, digest) = stepped(child);
                println!("{steps} {digest:016x}");
            }
        }
        other => panic!("no way {other}"),
    }
}
