//! Entry into the sandbox of MesaTEE's child processes (design.md section 2, ADR 1 "The sandbox").
//!
//! Five steps, each in one process of the chain zygote -> outer child -> inner child:
//!
//! 1. [`enter_namespaces`] in the outer child: own user, mount, PID, network, IPC and UTS namespaces, a root
//!    that holds nothing but the readable paths, and no root identity.
//! 2. the outer child forks: the inner child is process 1 of the new PID namespace.
//! 3. [`prepare_sandbox`] in the inner child, before it knows its job: no capabilities, Landlock.
//! 4. [`narrow_sandbox`] there, when its job has come and names an environment, or none: the others become unreadable.
//! 5. [`enter_sandbox`] there: resource limits, seccomp.
//!
//! A layer that the kernel lacks is missing from the returned list, so that the caller can refuse to go on;
//! seccomp, `no_new_privs` and the resource limits are never optional.
mod confine;
mod files;
mod landlocked;
mod layers;
mod namespaces;
mod pages;
mod root;
mod seccomp;
mod sys;

pub use confine::{
    enter_sandbox, narrow_sandbox, prepare_sandbox, prepare_zygote, Confinement, OUT_OF_CPU,
};
pub use files::{memfd, memfd_seal};
pub use layers::{layer, sandbox_layers};
pub use namespaces::enter_namespaces;
pub use pages::collapse_memory;
pub use sys::SandboxError;
