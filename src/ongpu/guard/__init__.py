"""A command under guard: witnesses, the session, and the hook inside the process."""
