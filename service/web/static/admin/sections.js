import { access } from './access.js'
import { audit } from './audit.js'
import { connections } from './connections.js'
import { svg } from './dom.js'
import { events } from './events.js'
import { keys } from './keys.js'
import { overview } from './overview.js'
import { rooms } from './rooms.js'
import { users } from './users.js'

const mark = (d) => () => svg('svg', { viewBox: '0 0 20 20', 'aria-hidden': 'true', class: 'mark' }, svg('path', { d }))

/** What there is to see, in the order of the navigation. `make(app, rest)` gets what follows the name in the address. */
export const SECTIONS = [
  { name: 'overview', title: 'Overview', make: overview, mark: mark('M3 16V9M8 16V4M13 16v-5M18 16V7') },
  { name: 'events', title: 'Events', make: events, mark: mark('M3 5h14M3 10h14M3 15h9') },
  { name: 'connections', title: 'Connections', make: connections, mark: mark('M7 13l6-6M6 9l-2 2a3.5 3.5 0 0 0 5 5l2-2M14 11l2-2a3.5 3.5 0 0 0-5-5L9 6') },
  { name: 'users', title: 'Users', make: users, mark: mark('M10 10a3.2 3.2 0 1 0 0-6.400a3.200 3.200 0 0 0 0 6.400M3.500 17a6.500 5 0 0 1 13 0') },
  { name: 'rooms', title: 'Rooms', make: rooms, mark: mark('M3 5h9v7H7l-4 3zM14.500 8H17v9l-3-2.500H9') },
  { name: 'access', title: 'Access', make: access, mark: mark('M10 2.500l6 2.500v4.500c0 4-2.500 6.500-6 8c-3.500-1.500-6-4-6-8V5z') },
  { name: 'keys', title: 'API keys', make: keys, mark: mark('M9 8.500a4.200 4.200 0 1 1 2.500 2.500L9.500 13H8v1.500H6.500V16L5 17.500H2.500V15z') },
  { name: 'audit', title: 'Audit', make: audit, mark: mark('M5 3h10v14H5zM8 7h4M8 10h4M8 13h2.500') },
]
