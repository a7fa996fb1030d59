# Writes what COMMAND prints to OUTPUT.
execute_process(COMMAND "${COMMAND}" OUTPUT_VARIABLE text COMMAND_ERROR_IS_FATAL ANY)
file(WRITE "${OUTPUT}" "${text}")
