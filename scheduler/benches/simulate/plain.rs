//! What many queues do: strictly first in, first out, onto the first card with room.

use std::collections::VecDeque;

use crate::replay::Scheduler;
use crate::workload::Task;

pub(crate) struct FirstFit<'a> {
    tasks: &'a [Task],
    queue: VecDeque<usize>,
    open: Vec<u64>,
    jobs: Vec<usize>,
    jobs_max: usize,
    place_of: Vec<usize>,
}

impl<'a> FirstFit<'a> {
    pub(crate) fn new(tasks: &'a [Task], usable: Vec<u64>, jobs_max: usize) -> Self {
        let jobs = vec![0; usable.len()];
        let place_of = vec![usize::MAX; tasks.len()];
        Self { tasks, queue: VecDeque::new(), open: usable, jobs, jobs_max, place_of }
    }
}

impl Scheduler for FirstFit<'_> {
    fn submit(&mut self, task: usize, _: u64) {
        self.queue.push_back(task);
    }

    fn end(&mut self, task: usize, _: u64) {
        let card = self.place_of[task];
        self.open[card] += self.tasks[task].vram_bytes;
        self.jobs[card] -= 1;
    }

    fn place(&mut self, _: u64) -> Vec<(usize, usize)> {
        let mut placed = Vec::new();
        while let Some(task) = self.queue.front().copied() {
            let need = self.tasks[task].vram_bytes;
            let fits = |card: &usize| self.open[*card] >= need && self.jobs[*card] < self.jobs_max;
            let Some(card) = (0..self.open.len()).find(fits) else { break };
            self.open[card] -= need;
            self.jobs[card] += 1;
            self.place_of[task] = card;
            self.queue.pop_front();
            placed.push((task, card));
        }
        placed
    }
}
