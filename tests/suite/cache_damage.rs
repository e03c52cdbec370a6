//! Caches and stores that were damaged, and payloads made to do harm: named or a clean miss, quickly, and nothing else touched.

mod hostile;
mod table;
