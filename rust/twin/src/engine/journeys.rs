//! What became of each request in flight, in time; and its row, if records are kept.

use super::prefetch;
use crate::record::{RequestColumns, Status};
use crate::requests::Request;
use crate::units::Time;

/// Times of one request: a cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
pub(super) struct Journey {
    pub(super) arrival: Time,
    /// End of the step that made its first token; `Time::MAX` before.
    pub(super) first_token: Time,
    /// As the client saw it.
    pub(super) ttft: Time,
    /// End of the step that made its latest token; kept while it does not decode.
    pub(super) latest_token: Time,
    /// Steps merged in the run up to its first token.
    pub(super) merged_before: u64,
    /// Its place in the order of arrival.
    pub(super) number: u64,
    in_flight: bool,
}

/// One journey by request number in the engine, and one row by order of arrival.
#[derive(Clone, Debug)]
pub(super) struct Journeys {
    rows: Vec<Journey>,
    columns: Option<RequestColumns>,
}

impl Journeys {
    pub(super) fn new(columns: Option<RequestColumns>) -> Self {
        Journeys {
            rows: Vec::new(),
            columns,
        }
    }

    /// Whether there are so many that it is worth telling which will be needed soon.
    #[inline]
    pub(super) fn are_many(&self) -> bool {
        prefetch::are_many(&self.rows)
    }

    /// The journey will be needed soon.
    #[inline]
    pub(super) fn prefetch(&self, id: u32) {
        prefetch::prefetch(&self.rows, id);
    }

    #[inline]
    pub(super) fn accepted(&mut self, id: u32, number: u64, request: &Request, ready: Time) {
        if id as usize == self.rows.len() {
            self.rows.push(Journey::default());
        }
        // What is not written here is written before it is read.
        let journey = &mut self.rows[id as usize];
        journey.arrival = request.arrival;
        journey.first_token = Time::MAX;
        journey.number = number;
        journey.in_flight = true;
        if let Some(columns) = &mut self.columns {
            columns.push(request, ready.seconds(), Status::Unfinished);
        }
    }

    #[inline]
    pub(super) fn dropped(&mut self, request: &Request) {
        if let Some(columns) = &mut self.columns {
            columns.push(request, f64::NAN, Status::Dropped);
        }
    }

    pub(super) fn preempted(&mut self, id: u32) {
        let number = self.rows[id as usize].number as usize;
        if let Some(columns) = &mut self.columns {
            columns.preemptions[number] += 1;
        }
    }

    #[inline]
    pub(super) fn done(&mut self, id: u32, done: Time) {
        let journey = &mut self.rows[id as usize];
        journey.in_flight = false;
        if let Some(columns) = &mut self.columns {
            let number = journey.number as usize;
            columns.set_first_token(number, journey.ttft, journey.first_token);
            columns.done_s[number] = done.seconds();
            columns.status[number] = Status::Completed as u8;
        }
    }

    /// Arrival of each request in flight, and its TTFT if it has its first token.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = (Time, Option<Time>)> + '_ {
        let in_flight = self.rows.iter().filter(|journey| journey.in_flight);
        in_flight.map(|journey| {
            let has_token = journey.first_token != Time::MAX;
            (journey.arrival, has_token.then_some(journey.ttft))
        })
    }

    /// The rows; requests still in flight keep what they have.
    pub(super) fn into_columns(self) -> Option<RequestColumns> {
        let mut columns = self.columns?;
        for journey in &self.rows {
            if journey.in_flight && journey.first_token != Time::MAX {
                let number = journey.number as usize;
                columns.set_first_token(number, journey.ttft, journey.first_token);
            }
        }
        Some(columns)
    }
}

impl std::ops::Index<u32> for Journeys {
    type Output = Journey;
    #[inline]
    fn index(&self, id: u32) -> &Journey {
        &self.rows[id as usize]
    }
}

impl std::ops::IndexMut<u32> for Journeys {
    #[inline]
    fn index_mut(&mut self, id: u32) -> &mut Journey {
        &mut self.rows[id as usize]
    }
}
