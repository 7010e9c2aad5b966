//! Places for look-ups: bounded in all and per organization.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemas::ids::OrgId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

type ByOrganization = HashMap<OrgId, Arc<Semaphore>>;

/// Cloning shares the places.
#[derive(Clone)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    per_organization: usize,
    /// Of organizations that have a place or wait for one.
    by_organization: Arc<Mutex<ByOrganization>>,
}

impl Places {
    pub(crate) fn new(all: usize, per_organization: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), per_organization, by_organization: Arc::default() }
    }

    /// Waits for a place of the organization, then for one of all. Dropping the place frees both.
    pub(crate) async fn take(&self, org_id: OrgId) -> Place {
        let own = self.lock().entry(org_id).or_insert_with(|| Arc::new(Semaphore::new(self.per_organization))).clone();
        let mut place = Place { places: self.clone(), org_id, own: own.clone(), permits: None };
        // The semaphores are never closed.
        let own = own.acquire_owned().await.ok();
        let all = self.all.clone().acquire_owned().await.ok();
        place.permits = own.zip(all);
        place
    }

    fn lock(&self) -> MutexGuard<'_, ByOrganization> {
        self.by_organization.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Place {
    places: Places,
    org_id: OrgId,
    own: Arc<Semaphore>,
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.permits.take());
        let mut places = self.places.lock();
        // The map and this place: nobody else has or wants a place.
        if Arc::strong_count(&self.own) <= 2 {
            places.remove(&self.org_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn an_organization_leaves_places_to_others() {
        let places = Places::new(3, 2);
        let (a, b) = (OrgId::generate(), OrgId::generate());
        let taken = [places.take(a).await, places.take(a).await];
        assert!(places.take(a).now_or_never().is_none(), "the bound of the organization");
        let other = places.take(b).await;
        assert!(places.take(b).now_or_never().is_none(), "the bound of all");
        drop(other);
        assert!(places.take(b).now_or_never().is_some());
        drop(taken);
        assert!(places.lock().is_empty() && places.all.available_permits() == 3);
    }
}
