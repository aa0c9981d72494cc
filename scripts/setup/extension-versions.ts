/**
 * Extensions of others whose own tests run on Zenith, as Debian ships their sources. Only tests
 * build them; users install what they need with PGXS, as for any Postgres.
 */
export interface ExtensionRelease {
  readonly name: string
  readonly version: string
  /** Debian's source package, and the upstream tarball in it. */
  readonly sourcePackage: string
  readonly tarball: string
  readonly sha256: string
  /** Debian packages that building it needs besides those of Postgres. */
  readonly debianPackages: readonly string[]
  /** Options for its configure, or null if it has none. */
  readonly configure: readonly string[] | null
  /** Variables for make. */
  readonly make: readonly string[]
  /** What make has to do for the tests alone, or null. */
  readonly makeTests: readonly string[] | null
}

export const EXTENSIONS: readonly ExtensionRelease[] = [
  {
    name: 'pgvector',
    version: '0.8.0',
    sourcePackage: 'pgvector',
    tarball: 'pgvector_0.8.0.orig.tar.gz',
    sha256: '867a2c328d4928a5a9d6f052cd3bc78c7d60228a9b914ad32aa3db88e9de27b0',
    debianPackages: [],
    configure: null,
    // For any processor, since the cache may be shared.
    make: ['OPTFLAGS='],
    makeTests: null,
  },
  {
    name: 'postgis',
    version: '3.5.2',
    sourcePackage: 'postgis',
    tarball: 'postgis_3.5.2+dfsg.orig.tar.xz',
    sha256: 'cd52aaf24afc80a20be4659d6aecfcd437abdd0f06e39d2854b50660f3a5518f',
    debianPackages: [
      'libgeos-dev',
      'libjson-c-dev',
      'libproj-dev',
      'libprotobuf-c-dev',
      'protobuf-c-compiler',
    ],
    // Raster needs GDAL, which is larger than everything else together.
    configure: ['--without-raster', '--without-gui', '--without-phony-revision'],
    make: [],
    makeTests: ['-C', 'topology/test', 'check-regress-deps'],
  },
]
