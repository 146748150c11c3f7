//! Programs that try to take more than they pay for.
