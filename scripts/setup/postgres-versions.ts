/**
 * The PostgreSQL releases that this project builds: the only ones whose source is accepted without
 * further word. Newest first; the first one already built, else the one that the Debian mirror
 * has, is used. To add a minor release: add its line, apply the patches, run all tests.
 */
export interface PostgresRelease {
  readonly version: string
  /** Of the upstream tarball, which Debian ships unchanged as `postgresql-17_<version>.orig.tar.bz2`. */
  readonly sha256: string
}

export const POSTGRES_MAJOR = 17

export const POSTGRES_RELEASES: readonly PostgresRelease[] = [
  { version: '17.11', sha256: 'dd27f2b3c59e73ed14aa3324901242bf69a032a6347805f274e6260322d42979' },
]
