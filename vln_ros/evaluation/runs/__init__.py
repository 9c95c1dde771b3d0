"""Many episodes: results, run folders, reports, comparisons."""
