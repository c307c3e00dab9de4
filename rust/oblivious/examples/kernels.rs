//! Runs one kernel on values of a seed, so that its trace can be compared with that of other values.
//!
//! ```text
//! kernels run KERNEL ENGINE SIZE SEED      for valgrind, which sees every access; prints where `marker` is
//! kernels step KERNEL ENGINE SIZE SEED...  single steps: the trace's digest for each seed
//! ```
//!
//! Kernels are `sort`, `places`, `compact`, `one_word`, `sets`, `pages`, `match` and `rows`; `branch` and `lookup` are what must be found out. Engines
//! are `portable` and `best`. A step's part of the trace is the instruction's address and that of each memory operand.
#![allow(unsafe_code)]
use iced_x86::{Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Register};
use mesatee_oblivious::external::{external, Broken, Store};
use mesatee_oblivious::matching::{find, Party, Wanted};
use mesatee_oblivious::rows::{Column, Rows};
use mesatee_oblivious::sets::combined;
use mesatee_oblivious::{compact::compact, sort, Engine, BLOCK};
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Mutex;

type Work = Box<dyn FnOnce()>;

struct Values(u64);

impl Values {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 ^ self.0 >> 29
    }

    fn words(&mut self, size: usize) -> Vec<u64> {
        (0..size).map(|_| self.next()).collect()
    }

    fn marks(&mut self, size: usize) -> Vec<u8> {
        (0..size).map(|_| (self.next() >> 40 & 1) as u8).collect()
    }

    /// Few different ones, so that there are ties, matches and duplicates.
    fn few(&mut self, size: usize) -> Vec<u64> {
        (0..size)
            .map(|_| (self.next() >> 33) % size as u64)
            .collect()
    }
}

/// Pages that stay in memory: how they are sealed is no matter of the kernels.
struct Shelf(Mutex<Vec<Vec<u64>>>);

impl Store for Shelf {
    fn read(&self, page: usize, words: &mut [&mut [u64]]) -> Result<(), Broken> {
        let shelf = self.0.lock().map_err(|_| Broken::Altered)?;
        let mut rest = &shelf[page][..];
        for word in words {
            let (here, after) = rest.split_at(word.len());
            word.copy_from_slice(here);
            rest = after;
        }
        Ok(())
    }

    fn write(&self, page: usize, words: &[&[u64]]) -> Result<(), Broken> {
        self.0.lock().map_err(|_| Broken::Altered)?[page] = words.concat();
        Ok(())
    }
}

/// The kernel with its input; all of the input is made before.
fn prepared(kernel: &str, engine: &str, size: usize, seed: u64) -> Work {
    let engine = match engine {
        "portable" => Engine::Portable,
        "best" => Engine::best(),
        other => panic!("no engine {other}"),
    };
    let mut values = Values(seed);
    let whole = size.next_multiple_of(BLOCK);
    match kernel {
        "sort" => {
            let [mut a, mut b, mut c] = [(); 3].map(|()| values.few(whole));
            Box::new(move || {
                sort::<3, 2>([&mut a, &mut b, &mut c], engine, 1);
                black_box((a, b, c));
            })
        }
        "places" => {
            let mut a = values.words(whole);
            Box::new(move || {
                sort::<1, 1>([&mut a], engine, 1);
                black_box(a);
            })
        }
        "compact" => {
            let (mut rows, marks) = (values.words(3 * size), values.marks(size));
            Box::new(move || {
                black_box(compact(&mut rows, 3, &marks, engine, 1));
                black_box(rows);
            })
        }
        "one_word" => {
            let (mut rows, marks) = (values.words(size), values.marks(size));
            Box::new(move || {
                black_box(compact(&mut rows, 1, &marks, engine, 1));
                black_box(rows);
            })
        }
        "sets" => {
            let parties: Vec<_> = [size, size / 2 + 1, size / 3]
                .map(|size| {
                    let keys: Vec<u8> = values
                        .few(size)
                        .into_iter()
                        .flat_map(u64::to_le_bytes)
                        .collect();
                    Rows::new(&[Column::Int(&keys)], values.marks(size)).expect("columns that fit")
                })
                .into();
            Box::new(move || {
                let given: Vec<&Rows> = parties.iter().collect();
                for wanted in [Wanted::Common, Wanted::OnlyFirst] {
                    black_box(combined(&given, &[7; 16], wanted, false, engine, 1))
                        .expect("rows that fit");
                }
            })
        }
        "pages" => {
            let parties = [size, size / 2 + 1].map(|size| {
                let keys: Vec<u8> = values
                    .few(size)
                    .into_iter()
                    .flat_map(u64::to_le_bytes)
                    .collect();
                Rows::new(&[Column::Int(&keys)], values.marks(size)).expect("columns that fit")
            });
            let store = Shelf(Mutex::new(vec![Vec::new(); 4 + 2 * size / BLOCK]));
            // What pages of one block take.
            let made = external(&parties[0], 14_000, engine, 1, |_| store);
            let mut made = made.expect("rows that fit");
            Box::new(move || {
                for (party, rows) in parties.iter().enumerate() {
                    made.add(party, rows).expect("a store that holds");
                }
                black_box(made.combine(2, Wanted::Common, true)).expect("a store that holds");
            })
        }
        "match" => {
            let parties: Vec<_> = [size, size / 2 + 1, size / 3]
                .map(|size| (values.few(size), values.marks(size)))
                .into();
            Box::new(move || {
                let given: Vec<Party<'_>> = parties
                    .iter()
                    .map(|(keys, valid)| Party { keys, valid })
                    .collect();
                for wanted in [Wanted::Common, Wanted::OnlyFirst] {
                    black_box(find(&given, 1, &[7; 16], wanted, engine, 1));
                }
            })
        }
        "rows" => {
            let bytes: Vec<u8> = values
                .few(size)
                .into_iter()
                .flat_map(u64::to_le_bytes)
                .collect();
            let rows = Rows::new(
                &[
                    Column::Int(&bytes),
                    Column::Int(&bytes),
                    Column::Int(&bytes),
                ],
                vec![1; size],
            );
            let rows = rows.expect("columns that fit");
            Box::new(move || {
                black_box(rows.sorted(engine, 1));
            })
        }
        "branch" => {
            let mut words = values.words(size);
            Box::new(move || {
                for index in 1..words.len() {
                    if words[index - 1] > words[index] {
                        words.swap(index - 1, index);
                        black_box(&mut words);
                    }
                }
                black_box(words);
            })
        }
        "lookup" => {
            let (table, mut sum) = (values.few(size), 0u64);
            Box::new(move || {
                for word in &table {
                    sum = black_box(sum.wrapping_add(table[*word as usize]));
                }
                black_box(sum);
            })
        }
        other => panic!("no kernel {other}"),
    }
}

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

fn main() {
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
