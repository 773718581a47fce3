"""From claimed items to stored results: fetch, look up, segment, finish, store, commit, each beside the others."""
