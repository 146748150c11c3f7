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
        use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
        // One job is not worth the way to another thread.
        if jobs <= 1 {
            return Inline.each(jobs, job);
        }
        // Jobs differ, so nobody takes two before he has done one.
        (0..jobs).into_par_iter().with_max_len(1).for_each(job);
    }
}

/// Does `job` on every item, once, whatever workers make of their numbers: those that they leave out are done here.
pub fn each_mut<T: Send>(workers: &dyn Workers, items: &mut [T], job: impl Fn(&mut T) + Sync) {
    let items: Vec<Mutex<Option<&mut T>>> = items.iter_mut().map(|item| Mutex::new(Some(item))).collect();
    let run = |index: usize| {
        let item = items.get(index).and_then(|item| item.lock().ok()?.take());
        if let Some(item) = item {
            job(item);
        }
    };
    workers.each(items.len(), &run);
    (0..items.len()).for_each(run);
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Careless;

    impl Workers for Careless {
        fn each(&self, jobs: usize, job: &(dyn Fn(usize) + Sync)) {
            [0, 0, 2, jobs].into_iter().for_each(job);
        }
    }

    #[test]
    fn what_workers_leave_out_or_repeat_is_done_once() {
        let mut items = [0; 5];
        each_mut(&Careless, &mut items, |item| *item += 1);
        assert_eq!(items, [1; 5]);
    }
}
