/** localStorage; memory where there is none, or where it is forbidden or full. */
export function defaultStore() {
    const memory = new Map();
    return {
        get(key) {
            try {
                return memory.get(key) ?? localStorage.getItem(key);
            }
            catch {
                return null;
            }
        },
        set(key, value) {
            try {
                localStorage.setItem(key, value);
                memory.delete(key);
            }
            catch {
                memory.set(key, value);
            }
        },
    };
}
