import { start } from './admin/shell.js'

start(document.body, document.documentElement.dataset.profile)
