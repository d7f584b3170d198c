# The real program, as scripts and the window use it.
espalier_test(test_cli SOURCES cli/test_cli.cpp cli/test_cli_factors.cpp cli/test_resume.cpp cli/test_serve.cpp cli/test_serve_plan.cpp cli/engine_process.cpp LIBS espalier::base espalier::rpc espalier::session LABELS cli TIMEOUT 900)
if(TARGET test_cli)
    add_dependencies(test_cli espalier-engine)
    target_compile_definitions(test_cli PRIVATE ESPALIER_ENGINE="$<TARGET_FILE:espalier-engine>"
        ESPALIER_MANUAL_TEMPLATE="${PROJECT_SOURCE_DIR}/packaging/man/espalier-engine.1.in")
endif()
