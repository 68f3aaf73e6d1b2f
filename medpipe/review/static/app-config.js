/* How OHIF is set up here: one origin, read only, the segmentation shown at once, no study list of its own. */
window.config = {
  name: 'medpipe',
  routerBasename: '/',
  extensions: [],
  modes: [],
  modesConfiguration: {
    // the list of segments is open; the basic mode cannot edit them
    '@ohif/mode-longitudinal': {
      routes: { 0: { layoutInstance: { props: { rightPanelClosed: { $set: false } } } } },
    },
  },
  customizationService: [{ 'ohif.tours': { $set: [] } }],
  showStudyList: false,
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: false,
  showLoadingIndicator: true,
  showErrorDetails: 'production',
  disableConfirmationPrompts: true,
  investigationalUseDialog: { option: 'never' },
  strictZSpacingForVolumeViewport: true,
  maxNumberOfWebWorkers: 3,
  maxNumRequests: { interaction: 20, thumbnail: 4, prefetch: 8 },
  whiteLabeling: {
    createLogoComponentFn: React =>
      React.createElement(
        'span',
        { style: { whiteSpace: 'nowrap', padding: '0 12px' } },
        React.createElement('a', { href: '/app', style: { color: '#9ccef9' } }, '\u2039 Worklist'),
        React.createElement('span', { style: { color: '#f0b849', marginLeft: '14px', fontSize: '13px' } }, 'AI, not reviewed')
      ),
  },
  defaultDataSourceName: 'pacs',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'pacs',
      configuration: {
        friendlyName: 'PACS',
        name: 'pacs',
        qidoRoot: '/dicom-web',
        wadoRoot: '/dicom-web',
        wadoUriRoot: '/wado',
        qidoSupportsIncludeField: true,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        supportsReject: false,
        dicomUploadEnabled: false,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: true,
        omitQuotationForMultipartRequest: true,
        singlepart: 'bulkdata',
        bulkDataURI: { enabled: true, relativeResolution: 'studies' },
      },
    },
  ],
};
