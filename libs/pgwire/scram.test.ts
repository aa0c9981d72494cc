import { describe, expect, test } from 'vitest'
import { md5Password, ScramClient } from './scram.ts'

/** The exchange of RFC 7677, but for the user name, which Postgres leaves out. */
const CHALLENGE =
  'r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096'

describe('passwords of Postgres', () => {
  test('SCRAM: a proof, and the proof of the server', () => {
    const client = new ScramClient('pencil', 'rOprNGfwEbeRWgbNEkqO')
    expect(client.first()).toBe('n,,n=,r=rOprNGfwEbeRWgbNEkqO')
    const final = client.final(CHALLENGE)
    expect(final).toMatch(/^c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj\)hNlF\$k0,p=/)
    expect(() => client.verify('v=AAAA')).toThrow('does not know the password')
    expect(() => client.verify(`v=${Buffer.alloc(32).toString('base64')}`)).toThrow('itself')
  })

  test('SCRAM: a challenge that is not for us is refused', () => {
    const client = new ScramClient('pencil', 'mine')
    expect(() => client.final('r=other,s=AAAA,i=4096')).toThrow('wrong challenge')
    expect(() => client.final('r=mine,s=AAAA,i=4096')).toThrow('wrong challenge')
    expect(() => client.final('r=mine2,s=AAAA,i=99999999')).toThrow('wrong challenge')
    expect(() => client.final('e=other-error')).toThrow('wrong challenge')
  })

  test('md5', () => {
    const salt = Buffer.from([1, 2, 3, 4])
    expect(md5Password('joe', 'secret', salt)).toMatch(/^md5[0-9a-f]{32}$/)
    expect(md5Password('joe', 'secret', salt)).not.toBe(md5Password('ann', 'secret', salt))
  })
})
