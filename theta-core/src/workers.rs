//! The port to cores: work that can be cut into independent jobs is handed to whoever has threads.

use std::sync::Mutex;

/// Carries out jobs, on as many cores as it has. What comes out must not depend on their order.
pub trait Workers: Send + Sync {
    /// Runs `job` once for every number below `jobs`, in any order, and returns when all are done.
    fn each(&self, jobs: usize, job: &(dyn Fn(usize) + Sync));
}

/// One after the other, on the caller's thread.
#[derive(Debug, Clone, Copy)]
pub struct Inline;

impl Workers for Inline {
    fn each(&self, jobs: usize, job: &(dyn Fn(usize) + Sync)) {
        (0..jobs).for_each(job);
    }
}

/// All cores: the process's one pool of threads, as rayon has it (`RAYON_NUM_THREADS` sets their number).
#[cfg(feature = "rayon")]
#[derive(Debug, Clone, Copy)]
pub struct Cores;

#[cfg(feature = "rayon")]
impl Workers for Cores {
    fn each(&self, jobs: usize, job: &(dyn Fn(usize) + Sync)) {
        use rayon::iter::{IntoParallelIterator, ParallelIterator};
        // One job is not worth the way to another thread.
        if jobs <= 1 {
            return Inline.each(jobs, job);
        }
        (0..jobs).into_par_iter().for_each(job);
    }
}

/// Does `job` on every item.
pub fn each_mut<T: Send>(workers: &dyn Workers, items: &mut [T], job: impl Fn(&mut T) + Sync) {
    let items: Vec<Mutex<&mut T>> = items.iter_mut().map(Mutex::new).collect();
    workers.each(items.len(), &|index| {
        // Each lock is taken once; one that is poisoned belongs to a job that has panicked already.
        if let Ok(mut item) = items[index].lock() {
            job(&mut item);
        }
    });
}
