//! An allocator that counts.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
};

/// Counts what is asked of the system's allocator.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

static BYTES: AtomicI64 = AtomicI64::new(0);

fn add(bytes: usize) {
    BYTES.fetch_add(bytes.cast_signed() as i64, Ordering::Relaxed);
}

fn subtract(bytes: usize) {
    BYTES.fetch_sub(bytes.cast_signed() as i64, Ordering::Relaxed);
}

// SAFETY: everything is handed on to the system's allocator as it comes.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        add(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        subtract(layout.size());
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        add(size);
        subtract(layout.size());
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[allow(dead_code, reason = "each user uses a part of it")]
/// How often memory was asked for until now, by whichever thread.
pub(crate) fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

/// How many bytes are allocated now, by whichever thread: as many as were asked for.
#[allow(dead_code, reason = "each user uses a part of it")]
pub(crate) fn bytes() -> i64 {
    BYTES.load(Ordering::Relaxed)
}
